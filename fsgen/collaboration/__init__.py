"""When the large model is called, and what is written then: routers, fusion rules, and their simulation.

Pure arithmetic; no model runs.
"""
