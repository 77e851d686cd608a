"""Answers that are given again: in the memory of the pod, and in a Redis that all pods of a revision share.

The key is the revision and the request's input, so that no answer ever crosses from one revision to another, and a new
one begins with none. Only good answers are kept, those of the models that were to give them.
"""
