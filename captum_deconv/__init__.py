"""captum_deconv."""
