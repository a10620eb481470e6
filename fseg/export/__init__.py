"""Results in the forms of other tools: COCO, GeoJSON, supervision, Hugging Face's pipelines."""
