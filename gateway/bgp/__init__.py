"""BGP: RIBs, best path and policy over sessions that a separate ExaBGP process keeps. Start at `speaker.py`."""
