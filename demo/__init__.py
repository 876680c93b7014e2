"""The page: a thin client of ``demo.service``, which is the only module here that knows the models."""
