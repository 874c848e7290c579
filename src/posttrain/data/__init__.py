"""Rows from files and hubs to token rows, with a ledger of every one."""
