"""One evaluation run: its images, records and folder."""
