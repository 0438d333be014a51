"""Who rewrites code or reasoning for prm_data/: rules, or a language model.

                 by rules             by a language model (chat.py)
    code         ast_variants.py      chat_variants.py
    reasoning    reasoning_rules.py   chat_reasoning.py

ast_variants.py lists the files of the rules for code. chat.py is the client: a chat endpoint by
HTTP, or a local model.
"""
