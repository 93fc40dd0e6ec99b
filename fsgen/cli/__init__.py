"""`fsgen` for people: each command reads its words, calls one room of the house and prints."""
