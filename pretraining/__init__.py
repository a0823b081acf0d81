"""Self-supervised training of the small encoder that ships with sslfeat; see README.md beside this file."""
