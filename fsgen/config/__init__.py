"""Settings: params.yaml becomes frozen dataclasses, and every mistake in it is reported here.

Nothing is computed.
"""
