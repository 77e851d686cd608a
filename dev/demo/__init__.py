"""The demo: a real program in three versions, released on a cluster while one watches."""
