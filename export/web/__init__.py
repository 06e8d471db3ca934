"""Engines in a browser: ONNX Runtime Web from npm, the page that runs it, and the same engine in Node.js."""

PAGE = "page"
"""Folder of everything that the page of a bundle needs beside :data:`INDEX` and the engine."""

INDEX = "index.html"
"""File of a bundle that a browser opens."""
