# The bucket.

resource "google_storage_bucket" "this" {
  #checkov:skip=CKV_GCP_62:Access logs are the project's choice (audit logs), and cost more than a cache is worth
  #checkov:skip=CKV_GCP_78:Objects are named by their content and never overwritten, so versions would keep nothing but what expired
  name     = var.bucket_name
  location = var.location
  labels   = var.labels

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # Soft-deleted objects are paid for; what expires from a cache is compiled again.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }

    condition {
      age = 1
    }
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      age            = var.retention_days
      matches_prefix = ["${var.prefix}/"]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key_name[*]

    content {
      default_kms_key_name = encryption.value
    }
  }
}
