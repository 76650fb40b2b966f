"""Membership: identities, who they are to an organisation, and policies over signatures."""
