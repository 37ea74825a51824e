"""A local HTTP server that speaks Anthropic's Messages API, with its delays, usage and bill.

``python -m tests.messages_server`` runs it. It answers the real SDK, whole or as a stream; any key
will do, and it reaches no network. Equal requests get equal answers, tokens and delays.
"""
