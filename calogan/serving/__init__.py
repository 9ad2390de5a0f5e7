"""Showers over HTTP: the encodings, the API, its Ray Serve application and a client."""
