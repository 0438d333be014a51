"""The methods of make_prm_data.py, one a file; rows.py is what they share.

To add a method, write one file with `Config` (the flags) and `main(config)`, as gold.py has them;
then name it in make_prm_data.METHODS. Who rewrites code or reasoning stands in teachers/.
"""
