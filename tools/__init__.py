"""What the Makefile runs and no user needs."""
