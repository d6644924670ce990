"""Alerting: from findings to alerts, from alerts to messages, from messages to people."""
