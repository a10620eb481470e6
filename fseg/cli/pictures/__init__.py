"""`fseg figure` and `fseg view`: one image, drawn for a paper or for a browser."""
