"""Greenroom for Microsoft Agent Framework."""
