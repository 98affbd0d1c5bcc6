"""What a model is: its contract, its inputs, how it is loaded and scored."""
