"""What will fit on a card, from shapes alone: whole numbers, no torch."""
