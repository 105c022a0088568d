"""What the server runs in a session: functions whose source is sent there."""
