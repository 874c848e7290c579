"""posttrain: a pretrained language model and a recipe in, a model that may be released out."""

__version__ = "0.1.0"
