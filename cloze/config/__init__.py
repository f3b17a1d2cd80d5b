"""What the user sets: dataclasses, recipes, flags."""
