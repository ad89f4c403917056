"""How fast searches find the front, on recorded trainings and on analytic problems."""
