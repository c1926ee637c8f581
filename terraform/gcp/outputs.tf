output "url" {
  description = "What TRITONSYNC_URL is to be set to."
  value       = "gs://${google_storage_bucket.this.name}/${var.prefix}"
}
