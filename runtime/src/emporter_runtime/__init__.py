"""What every Emporter service stands on."""
