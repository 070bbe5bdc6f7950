"""A trained model behind HTTP: one ASGI application, which imports no Ray; see docs/serving.md."""
