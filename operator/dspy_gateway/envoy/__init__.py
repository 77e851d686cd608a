"""What Envoy is told, as plain dicts: the bootstrap, a listener and what it counts, clusters, and route tables.

Pure. Envoy's defaults are set, not inherited: its route timeout of 15 s cuts LM calls, its circuit breakers reject the
1,025th request, and its upstream connections outlive uvicorn's keep-alive. Names of clusters hold no dots, since a dot
separates the parts of a statistic's name.
"""
