"""The methods of make_prm_data.py, one a file, and the teachers that they ask."""
