"""Showers over HTTP: encodings, the API, its Ray Serve application, a client."""
