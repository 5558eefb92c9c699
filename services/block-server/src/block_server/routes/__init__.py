"""What can be asked, by kind."""
