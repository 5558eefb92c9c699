"""What the Emporter services say to each other."""
