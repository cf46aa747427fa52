"""Audits: what is wrong with revisions, replies and preference data, counted and listed, without asking a model."""
