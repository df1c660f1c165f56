"""What a run needs of a card's memory: predicted from the shapes of the model."""
