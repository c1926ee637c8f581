provider "google" {
  project = var.project
}

variable "project" {
  description = "Project of the bucket."
  type        = string
}

variable "bucket_name" {
  description = "Name of the bucket to create."
  type        = string
}

module "tritonsync" {
  source = "../../gcp"

  bucket_name = var.bucket_name
  location    = "us-central1"

  readers = ["serviceAccount:inference@${var.project}.iam.gserviceaccount.com"]
  writers = ["serviceAccount:warmup@${var.project}.iam.gserviceaccount.com"]
}

output "url" {
  description = "What TRITONSYNC_URL is to be set to."
  value       = module.tritonsync.url
}
