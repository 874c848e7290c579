"""Safety in text and rules: no models, no files."""
