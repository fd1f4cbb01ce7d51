"""The pair of gateways: heartbeat, lease and witness, election, cloud route tables. They say what is to be; others do it."""
