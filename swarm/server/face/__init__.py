"""What a server shows its owner: /metrics, a line in the log while something happens, and at its start what it found.

All of it is read off the server when it is asked for; what serves clients knows nothing of it.
"""
