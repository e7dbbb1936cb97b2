"""The fast way for plain chat calls: from the connection's bytes to the pipeline without a request's machinery.

``protocol.py`` decides for each request; whatever is not plain goes aiohttp's own way.
"""
