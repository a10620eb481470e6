"""What the model's own vocabulary says of its states: the logit lens."""
