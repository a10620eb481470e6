"""What the model's own vocabulary says of its states, and which parts wrote it."""
