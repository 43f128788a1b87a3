"""A secret in every place where one can stand, and a look into every place that it might come out of."""
