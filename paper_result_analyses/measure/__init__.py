"""The slow half of a figure or number: networks in, tables and pictures out."""
