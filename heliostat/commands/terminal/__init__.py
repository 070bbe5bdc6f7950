"""What commands show while they work, and the arguments that they share."""
