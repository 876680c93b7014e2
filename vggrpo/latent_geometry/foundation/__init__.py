"""Geometry foundation models Φ: images of a video in, one ``SceneGeometry`` out, all behind one protocol (``base``)."""
