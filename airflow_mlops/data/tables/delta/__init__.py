"""Tables of Delta Lake: the types of their columns, their credentials, and how a part is replaced."""
