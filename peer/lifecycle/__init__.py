"""What is installed and what is defined on which channel."""
