"""The ordering service: transactions in, signed blocks out."""
