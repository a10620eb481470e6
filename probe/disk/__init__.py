"""What is written: whole files, strict JSON, a folder for one writer, hashes of content."""
