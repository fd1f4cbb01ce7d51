"""The heartbeat between the two gateways of a pair. Says what was heard; decides nothing about roles."""
